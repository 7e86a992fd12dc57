<?php  // in Moodle's config.php, or the same under Site administration > Server > Email > Outgoing mail configuration

$CFG->smtphosts = getenv('RELAYD_HOST') . ':' . getenv('RELAYD_PORT');
$CFG->smtpsecure = getenv('RELAYD_TLS') === 'implicit' ? 'ssl' : 'tls';
$CFG->smtpauthtype = 'PLAIN';
$CFG->smtpuser = getenv('RELAYD_LOGIN');
$CFG->smtppass = getenv('RELAYD_PASSWORD');
$CFG->smtpmaxbulk = 50;
$CFG->noreplyaddress = getenv('RELAYD_SENDER');
$CFG->allowedemaildomains = '';  // else mail comes From users' own addresses, which are refused
