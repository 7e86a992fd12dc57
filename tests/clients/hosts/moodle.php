<?php  // PHPMailer with the settings that Moodle's get_mailer() makes of its configuration; not Moodle itself

require 'libphp-phpmailer/autoload.php';
require __DIR__ . '/message.php';

$CFG = new stdClass();
require __DIR__ . '/../recipes/moodle.php';

$mail = new PHPMailer\PHPMailer\PHPMailer();
$mail->CharSet = 'UTF-8';
$mail->isSMTP();
$mail->Host = $CFG->smtphosts;
$mail->SMTPSecure = $CFG->smtpsecure;
$mail->SMTPAuth = true;
$mail->AuthType = $CFG->smtpauthtype;
$mail->Username = $CFG->smtpuser;
$mail->Password = $CFG->smtppass;
$mail->Sender = $CFG->noreplyaddress;
$mail->setFrom($CFG->noreplyaddress, 'Отдел продаж');
$mail->addAddress($to);
$mail->addCC($copy);
$mail->addBCC($hidden);
$mail->Subject = $subject;
$mail->Body = $text;
$mail->addStringAttachment($table, 'счёт.csv');
if (!$mail->send()) {
    fwrite(STDERR, "$mail->ErrorInfo\n");
    exit(1);
}
