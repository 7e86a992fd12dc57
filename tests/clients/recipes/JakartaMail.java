// java -cp jakarta-mail.jar:jakarta-activation.jar JakartaMail.java TO COPY HIDDEN

import jakarta.mail.*;
import jakarta.mail.internet.*;
import java.util.Properties;

public class JakartaMail {
    public static void main(String[] to) throws Exception {
        var env = System.getenv();
        boolean implicit = env.get("RELAYD_TLS").equals("implicit");
        var settings = new Properties();
        settings.put("mail.smtp.host", env.get("RELAYD_HOST"));
        settings.put("mail.smtp.port", env.get("RELAYD_PORT"));
        settings.put("mail.smtp.ssl.enable", implicit);
        settings.put("mail.smtp.starttls.enable", !implicit);
        settings.put("mail.smtp.starttls.required", !implicit);
        settings.put("mail.smtp.ssl.checkserveridentity", true);
        settings.put("mail.smtp.auth", true);
        settings.put("mail.smtp.from", env.get("RELAYD_SENDER"));
        settings.put("mail.smtp.allow8bitmime", true);
        settings.put("mail.smtp.dsn.notify", "FAILURE,DELAY");
        settings.put("mail.smtp.dsn.ret", "HDRS");
        settings.put("mail.smtp.connectiontimeout", 60000);
        settings.put("mail.smtp.timeout", 60000);
        var session = Session.getInstance(settings);

        var text = new MimeBodyPart();
        text.setText("Здравствуйте!\n.\nСчёт во вложении.\n", "UTF-8");
        var invoice = new MimeBodyPart();
        invoice.setText("Итого;42\n", "UTF-8", "csv");
        invoice.setFileName(MimeUtility.encodeText("счёт.csv", "UTF-8", null));
        var message = new MimeMessage(session);
        message.setFrom(new InternetAddress(env.get("RELAYD_SENDER"), "Отдел продаж", "UTF-8"));
        message.setRecipients(Message.RecipientType.TO, to[0]);
        message.setRecipients(Message.RecipientType.CC, to[1]);
        message.setRecipients(Message.RecipientType.BCC, to[2]);
        message.setSubject("Счёт № 42 за апрель: оплатите, пожалуйста, до пятницы", "UTF-8");
        message.setContent(new MimeMultipart(text, invoice));
        message.saveChanges();

        try (var transport = (com.sun.mail.smtp.SMTPTransport) session.getTransport("smtp")) {
            try {
                transport.connect(env.get("RELAYD_LOGIN"), env.get("RELAYD_PASSWORD"));
                transport.sendMessage(message, message.getAllRecipients());
                System.out.print(transport.getLastServerResponse());
            } catch (MessagingException error) {
                for (Exception why = error; why instanceof MessagingException; why = ((MessagingException) why).getNextException())
                    System.err.println(why.getMessage());
                System.exit(transport.getLastReturnCode() < 500 ? 75 : 1);
            }
        }
    }
}
