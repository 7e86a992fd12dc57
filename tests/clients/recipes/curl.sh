# sh curl.sh TO COPY HIDDEN < message

[ "$RELAYD_TLS" = implicit ] && scheme=smtps || scheme=smtp
said=$(curl --silent --show-error --verbose --max-time 120 --url "$scheme://$RELAYD_HOST:$RELAYD_PORT" --ssl-reqd \
    --user "$RELAYD_LOGIN:$RELAYD_PASSWORD" --mail-from "$RELAYD_SENDER" \
    --mail-rcpt "$1" --mail-rcpt "$2" --mail-rcpt "$3" --upload-file - --crlf 2>&1)
code=$?
echo "$said" | grep -E '^(curl:|< [45]|< 250 2.0.0 queued)'  # not the rest: it has the password
[ $code = 0 ] && exit
case "$said" in *'
< 5'*) exit 1 ;; esac
exit 75
