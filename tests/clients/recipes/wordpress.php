<?php
/*
 * Plugin Name: Mail by relayd
 * Save as wp-content/mu-plugins/relayd.php.
 */

add_action('phpmailer_init', function ($mail) {
    $mail->isSMTP();
    $mail->Host = getenv('RELAYD_HOST');
    $mail->Port = (int) getenv('RELAYD_PORT');
    $mail->SMTPSecure = getenv('RELAYD_TLS') === 'implicit' ? 'ssl' : 'tls';
    $mail->SMTPAuth = true;
    $mail->Username = getenv('RELAYD_LOGIN');
    $mail->Password = getenv('RELAYD_PASSWORD');
    $mail->SMTPDebug = 1;  // only for the words of refusals: "Could not authenticate." says too little
    $mail->Debugoutput = fn ($line) => str_contains($line, 'SMTP ERROR') && error_log($line);
});
add_filter('wp_mail_from', fn () => getenv('RELAYD_SENDER'));
add_filter('wp_mail_from_name', fn () => 'Отдел продаж');
