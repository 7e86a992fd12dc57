# sh swaks.sh TO COPY HIDDEN < message

[ "$RELAYD_TLS" = implicit ] && tls=--tls-on-connect || tls=--tls
swaks --server "$RELAYD_HOST" --port "$RELAYD_PORT" "$tls" --tls-verify \
    --auth PLAIN --auth-user "$RELAYD_LOGIN" --auth-password "$RELAYD_PASSWORD" --auth-hide-password \
    --from "$RELAYD_SENDER" --to "$1,$2,$3" --data - --suppress-data
