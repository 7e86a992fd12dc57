<?php  // the message that all recipes write; the command line is TO COPY HIDDEN

[, $to, $copy, $hidden] = $argv;
$subject = 'Счёт № 42 за апрель: оплатите, пожалуйста, до пятницы';
$text = "Здравствуйте!\n.\nСчёт во вложении.\n";
$table = "Итого;42\n";
