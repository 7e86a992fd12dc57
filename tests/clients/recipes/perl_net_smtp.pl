# perl perl_net_smtp.pl TO COPY HIDDEN < message     (with IO::Socket::SSL and Authen::SASL)

use strict;
use warnings;
use Net::SMTP;

my $implicit = $ENV{RELAYD_TLS} eq 'implicit';
my $smtp = Net::SMTP->new($ENV{RELAYD_HOST}, Port => $ENV{RELAYD_PORT}, SSL => $implicit, Timeout => 60);

sub refused {
    my ($what) = @_;
    my ($code, $text) = $smtp ? ($smtp->code, $smtp->message) : (421, "$@\n");
    print STDERR "$what: $code $text";
    exit($code < 500 || $code == 599 ? 75 : 1);  # 599: the connection was lost
}

$smtp or refused('connection');
$implicit or $smtp->starttls or refused("STARTTLS: $IO::Socket::SSL::SSL_ERROR");
$smtp->auth($ENV{RELAYD_LOGIN}, $ENV{RELAYD_PASSWORD}) or refused('login');
$smtp->mail($ENV{RELAYD_SENDER}, Bits => '8', Return => 'HDRS') or refused('sender');
for my $to (@ARGV) {
    $smtp->recipient($to, { Notify => ['FAILURE', 'DELAY'] }) or refused($to);
}
$smtp->data(<STDIN>) or refused('message');
print $smtp->message;
$smtp->quit;
