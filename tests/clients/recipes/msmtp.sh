# sh msmtp.sh < message     (to all in its To, Cc and Bcc fields)

config=$(mktemp)
trap 'rm -f "$config"' EXIT
cat >"$config" <<END
account        default
host           $RELAYD_HOST
port           $RELAYD_PORT
tls            on
tls_starttls   $([ "$RELAYD_TLS" = implicit ] && echo off || echo on)
tls_trust_file ${SSL_CERT_FILE:-system}
auth           on
user           $RELAYD_LOGIN
passwordeval   printenv RELAYD_PASSWORD
from           $RELAYD_SENDER
dsn_notify     failure,delay
dsn_return     headers
timeout        60
logfile        -
END
log=$(msmtp --file="$config" --read-recipients) && echo "$log" && exit
echo "$log"
case "$log" in *smtpstatus=5*) exit 1 ;; esac  # its own exit codes do not tell temporary from permanent
exit 75
