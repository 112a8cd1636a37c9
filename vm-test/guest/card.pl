#!/usr/bin/perl
# Inside the guest: a badge that is held to the virtual PC/SC reader until its number was read, and then a little longer.
# Prints `read UPTIME_MS` and exits 0, or exits 1 after ten seconds without.
#
# Arguments: the badge's UID, hexadecimal.
use strict;
use warnings;
use IO::Select;
use IO::Socket::INET;
use Socket qw(IPPROTO_TCP TCP_NODELAY);

use constant TCP_QUICKACK => 12;
my $uid = pack 'H*', $ARGV[0] // die "whose badge?\n";
my $atr = pack 'H*', '3B8F8001804F0CA000000306030003000000' . '0068';
my $line = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => 35963, Proto => 'tcp')
    or die "no virtual reader at port 35963: $!\n";
setsockopt $line, IPPROTO_TCP, TCP_NODELAY, 1;

sub uptime_ms {
    open my $file, '<', '/proc/uptime' or return 0;
    my ($seconds) = split / /, <$file>;
    return int($seconds * 1000 + 0.5);
}

my $select = IO::Select->new($line);

# So many bytes, or nothing when the time is over or the reader hung up.
sub bytes {
    my ($count, $until_ms) = @_;
    my $got = '';
    while (length $got < $count) {
        my $left_s = ($until_ms - uptime_ms()) / 1000;
        return if $left_s <= 0 || !$select->can_read($left_s);
        my $read = sysread $line, $got, $count - length $got, length $got;
        return if !$read;
        # Otherwise each exchange waits for a delayed acknowledgement.
        setsockopt $line, IPPROTO_TCP, TCP_QUICKACK, 1;
    }
    return $got;
}

sub answer { syswrite $line, pack('n', length $_[0]) . $_[0] }

my $was_read = 0;
my $until_ms = uptime_ms() + 10_000;
while (defined(my $head = bytes(2, $until_ms))) {
    my $command = bytes(unpack('n', $head), $until_ms) // last;
    # One byte: power and reset need no answer, 4 asks who we are.
    if (length $command == 1) {
        answer($atr) if ord $command == 4;
    }
    elsif ($command eq pack 'H*', 'FFCA000000') {
        answer($uid . "\x90\x00");
        next if $was_read++;
        $until_ms = uptime_ms() + 700;
        print 'read ', uptime_ms(), "\n";
    }
    else {
        answer("\x6A\x81");
    }
}
exit($was_read ? 0 : 1);
