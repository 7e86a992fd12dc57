# ruby ruby_mail.rb TO COPY HIDDEN     (Rails: config.action_mailer.smtp_settings takes the same settings)

require "mail"

implicit = ENV["RELAYD_TLS"] == "implicit"
settings = {
  address: ENV["RELAYD_HOST"],
  port: ENV["RELAYD_PORT"].to_i,
  tls: implicit,
  enable_starttls: !implicit,
  openssl_verify_mode: "peer",
  user_name: ENV["RELAYD_LOGIN"],
  password: ENV["RELAYD_PASSWORD"],
  authentication: :plain,
  open_timeout: 60,
  read_timeout: 60,
  return_response: true,
}
to, copy, hidden = ARGV
mail = Mail.new(charset: "UTF-8", from: "Отдел продаж <#{ENV["RELAYD_SENDER"]}>", to: to, cc: copy, bcc: hidden)
mail.subject = "Счёт № 42 за апрель: оплатите, пожалуйста, до пятницы"
mail.body = "Здравствуйте!\n.\nСчёт во вложении.\n"
mail.add_file(filename: "счёт.csv", content: "Итого;42\n")
mail.delivery_method(:smtp, settings)
begin
  puts mail.deliver!.string
rescue Net::SMTPServerBusy, SystemCallError, IOError, Timeout::Error, OpenSSL::SSL::SSLError => error
  warn error.message
  exit 75
rescue Net::ProtocolError => error
  warn error.message
  exit 1
end
