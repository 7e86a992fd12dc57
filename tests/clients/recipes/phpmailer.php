<?php // php phpmailer.php TO COPY HIDDEN

require 'libphp-phpmailer/autoload.php';  // Debian's; Composer's is vendor/autoload.php

use PHPMailer\PHPMailer\{Exception, PHPMailer, SMTP};

class Relayd extends SMTP  // reads the queue id, and keeps the words of a refusal, which ErrorInfo may lack
{
    public $refusal = '421 no connection';
    protected $smtp_transaction_id_patterns = ['relayd' => '/queued as ([0-9a-f]+)/'];

    protected function setError($message, $detail = '', $smtp_code = '', $smtp_code_ex = '')
    {
        parent::setError($message, $detail, $smtp_code, $smtp_code_ex);
        if ($smtp_code) {
            $this->refusal = trim("$smtp_code $smtp_code_ex $detail");
        }
    }
}

[, $to, $copy, $hidden] = $argv;
$smtp = new Relayd();
$mail = new PHPMailer(true);
$mail->setSMTPInstance($smtp);
$mail->isSMTP();
$mail->Host = getenv('RELAYD_HOST');
$mail->Port = (int) getenv('RELAYD_PORT');
$mail->SMTPSecure = getenv('RELAYD_TLS') === 'implicit' ? PHPMailer::ENCRYPTION_SMTPS : PHPMailer::ENCRYPTION_STARTTLS;
$mail->SMTPAuth = true;
$mail->Username = getenv('RELAYD_LOGIN');
$mail->Password = getenv('RELAYD_PASSWORD');
$mail->Timeout = 60;
$mail->CharSet = PHPMailer::CHARSET_UTF8;
$mail->dsn = 'FAILURE,DELAY';
try {
    $mail->setFrom(getenv('RELAYD_SENDER'), 'Отдел продаж');
    $mail->addAddress($to);
    $mail->addCC($copy);
    $mail->addBCC($hidden);
    $mail->Subject = 'Счёт № 42 за апрель: оплатите, пожалуйста, до пятницы';
    $mail->Body = "Здравствуйте!\n.\nСчёт во вложении.\n";
    $mail->addStringAttachment("Итого;42\n", 'счёт.csv', PHPMailer::ENCODING_BASE64, 'text/csv');
    $mail->send();
    echo 'queued as ', $smtp->getLastTransactionID(), "\n";
} catch (Exception $error) {
    fwrite(STDERR, "$mail->ErrorInfo\n$smtp->refusal\n");
    exit($smtp->refusal < '5' ? 75 : 1);
}
