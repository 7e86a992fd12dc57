<?php  // bitrix/.settings.php has this beside its other keys

return [
    'smtp' => [
        'value' => [
            'enabled' => true,
            'host' => getenv('RELAYD_HOST'),
            'port' => (int) getenv('RELAYD_PORT'),  // TLS from the first byte on 465 only, STARTTLS on all others
            'encryption_type' => 'smtps',
            'login' => getenv('RELAYD_LOGIN'),
            'password' => getenv('RELAYD_PASSWORD'),
            'from' => getenv('RELAYD_SENDER'),
            'connection_timeout' => 60,
        ],
    ],
];
