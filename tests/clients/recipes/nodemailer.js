// node nodemailer.js TO COPY HIDDEN

const nodemailer = require('nodemailer');

const env = process.env;
const [to, copy, hidden] = process.argv.slice(2);
const transport = nodemailer.createTransport({
    host: env.RELAYD_HOST,
    port: Number(env.RELAYD_PORT),
    secure: env.RELAYD_TLS === 'implicit',
    requireTLS: true,
    auth: { user: env.RELAYD_LOGIN, pass: env.RELAYD_PASSWORD },
});
const message = {
    from: { name: 'Отдел продаж', address: env.RELAYD_SENDER },
    to,
    cc: copy,
    bcc: hidden,
    subject: 'Счёт № 42 за апрель: оплатите, пожалуйста, до пятницы',
    text: 'Здравствуйте!\n.\nСчёт во вложении.\n',
    attachments: [{ filename: 'счёт.csv', content: 'Итого;42\n', contentType: 'text/csv; charset=utf-8' }],
    dsn: { return: 'headers', notify: ['failure', 'delay'] },
};

async function send() {
    try {
        const info = await transport.sendMail(message);
        console.log(info.response);
        return info.rejectedErrors || []; // of some recipients; the others were taken
    } catch (error) {
        return error.rejectedErrors || [error];
    }
}

send().then((errors) => {
    for (const error of errors) console.error(error.message);
    if (errors.length) process.exitCode = errors.some((error) => (error.responseCode || 421) < 500) ? 75 : 1;
});
