#!/usr/bin/perl
# Inside the guest: people who tap one after the other, through the agent's own socket, for ever.
#
#   tap SEQ EVENT_ID UPTIME_MS      it was recorded
#   refused UPTIME_MS WHY           the agent took no tap
#   away UPTIME_MS WHY              no agent was there to ask
#
# Arguments: the pause after each tap in milliseconds.
use strict;
use warnings;
use IO::Socket::UNIX;

my $pause_s = ($ARGV[0] // 0) / 1000;
my $socket_name = '/run/edge-agent/control.sock';
$| = 1;

sub uptime_ms {
    open my $file, '<', '/proc/uptime' or return 0;
    my ($seconds) = split / /, <$file>;
    return int($seconds * 1000 + 0.5);
}

sub pause { select undef, undef, undef, shift }

my ($socket, $badge) = (undef, 0);
while (1) {
    $socket //= IO::Socket::UNIX->new(Peer => $socket_name);
    if (!$socket) {
        print 'away ', uptime_ms(), " $!\n";
        pause(0.05);
        next;
    }
    # 64 people.
    my $uid = sprintf '04A224B1C2%04X', $badge++ % 64;
    my $answer;
    {
        local $SIG{PIPE} = 'IGNORE';
        local $/ = "\n";
        if (print {$socket} "{\"tap\":{\"uid\":\"$uid\",\"direction\":\"in\"}}\n") {
            $socket->flush;
            $answer = <$socket>;
        }
    }
    if (!defined $answer) {
        print 'away ', uptime_ms(), " the agent hung up\n";
        $socket = undef;
        pause(0.05);
    }
    elsif ($answer =~ /^\{"recorded":\{"seq":(\d+),"event_id":"([^"]+)"/) {
        print "tap $1 $2 ", uptime_ms(), "\n";
        pause($pause_s) if $pause_s;
    }
    else {
        chomp $answer;
        print 'refused ', uptime_ms(), " $answer\n";
        pause(0.1);
    }
}
