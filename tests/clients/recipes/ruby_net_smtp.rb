# ruby ruby_net_smtp.rb TO COPY HIDDEN < message

require "net/smtp"

implicit = ENV["RELAYD_TLS"] == "implicit"
sender = Net::SMTP::Address.new(ENV["RELAYD_SENDER"], "BODY=8BITMIME", "RET=HDRS")
recipients = ARGV.map { |to| Net::SMTP::Address.new(to, "NOTIFY=FAILURE,DELAY") }
begin
  smtp = Net::SMTP.new(ENV["RELAYD_HOST"], ENV["RELAYD_PORT"].to_i, tls: implicit, starttls: implicit ? false : :always)
  answer = smtp.start(user: ENV["RELAYD_LOGIN"], secret: ENV["RELAYD_PASSWORD"], authtype: :plain) do
    smtp.send_message($stdin.read, sender, recipients)
  end
  puts answer.string
rescue Net::SMTPServerBusy, SystemCallError, IOError, Timeout::Error, OpenSSL::SSL::SSLError => error
  warn error.message
  exit 75
rescue Net::ProtocolError => error
  warn error.message
  exit 1
end
