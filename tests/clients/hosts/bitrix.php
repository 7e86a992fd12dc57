<?php  // PHPMailer as Bitrix\Main\Mail\Smtp\Mailer sets it up and uses it, with a message made elsewhere; not Bitrix itself

require 'libphp-phpmailer/autoload.php';
require __DIR__ . '/message.php';

class Mailer extends PHPMailer\PHPMailer\PHPMailer
{
    public function take($fields, $body)
    {
        $this->MIMEHeader = $fields;
        $this->MIMEBody = $body;
    }
}

$smtp = (require __DIR__ . '/../recipes/bitrix.php')['smtp']['value'];
$mail = new Mailer();
$mail->isSMTP();
$mail->SMTPAuth = (bool) $smtp['password'];
$mail->From = $smtp['from'];
$mail->Host = $smtp['host'];
$mail->Username = $smtp['login'];
$mail->Password = $smtp['password'];
$mail->Port = $smtp['port'];
if ($smtp['encryption_type'] === 'smtps') {
    $mail->SMTPSecure = $mail->Port == 465 ? Mailer::ENCRYPTION_SMTPS : Mailer::ENCRYPTION_STARTTLS;
}
$mail->Timeout = $smtp['connection_timeout'];
foreach ([$to, $copy, $hidden] as $address) {
    $mail->addAddress($address);
}
$encoded = fn ($words) => '=?UTF-8?B?' . base64_encode($words) . '?=';
$mail->take(
    "From: {$encoded('Отдел продаж')} <{$smtp['from']}>\nTo: $to\nCc: $copy\nBcc: $hidden\nSubject: {$encoded($subject)}\n"
    . "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=-",
    "---\nContent-Type: text/plain; charset=UTF-8\nContent-Transfer-Encoding: 8bit\n\n$text\n"
    . "---\nContent-Type: text/csv; charset=UTF-8\nContent-Transfer-Encoding: base64\n"
    . "Content-Disposition: attachment; filename=\"{$encoded('счёт.csv')}\"\n\n" . base64_encode($table) . "\n-----\n"
);
if (!$mail->postSend()) {
    fwrite(STDERR, "$mail->ErrorInfo\n");
    exit(1);
}
