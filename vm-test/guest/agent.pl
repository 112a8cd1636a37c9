#!/usr/bin/perl
# Inside the guest: runs the scripts that come over the port, several at a time, and says line by line what they say.
# Debian's perl-base has everything that it needs, so nothing is installed for it.
#
#   in:   run ID BYTES, and then the script's bytes     stop ID
#   out:  hello BOOT_ID      out ID TEXT      end ID EXIT_CODE
use strict;
use warnings;
use Fcntl;
use IO::Select;
use POSIX ();

my $port_name = '/dev/virtio-ports/tapline';
my $port;
for (1 .. 600) {
    last if sysopen $port, $port_name, O_RDWR;
    select undef, undef, undef, 0.1;
}
die "no port $port_name: $!\n" unless $port;

sub say_line {
    my $line = shift . "\n";
    while (length $line) {
        my $written = syswrite $port, $line;
        if (!defined $written) {
            next if $!{EINTR} || $!{EAGAIN};
            exit 0;
        }
        substr($line, 0, $written, '');
    }
}

sub boot_id {
    open my $file, '<', '/proc/sys/kernel/random/boot_id' or return 'unknown';
    chomp(my $id = <$file>);
    return $id;
}

my %jobs;            # by the number of their pipe: id, pid, pipe, what was read of a line
my $in = '';
my $select = IO::Select->new($port);

sub begin {
    my ($id, $script) = @_;
    pipe my $read, my $write or die "no pipe: $!\n";
    my $pid = fork // die "no process: $!\n";
    if ($pid == 0) {
        POSIX::setsid();
        close $read;
        open STDIN, '<', '/dev/null';
        open STDOUT, '>&', $write;
        open STDERR, '>&', $write;
        { exec '/bin/bash', '-c', $script }
        POSIX::_exit(127);
    }
    close $write;
    $jobs{ fileno $read } = { id => $id, pid => $pid, pipe => $read, rest => '' };
    $select->add($read);
}

sub take_in {
    my $read = sysread $port, $in, 65536, length $in;
    if (!defined $read || $read == 0) {
        # The other end is gone for a moment, or for good.
        select undef, undef, undef, 0.1;
        return;
    }
    while ($in =~ /^([^\n]*)\n/) {
        my ($line, $length) = ($1, length($1) + 1);
        if ($line =~ /^run (\d+) (\d+)$/) {
            last if length($in) < $length + $2;
            my ($id, $script) = ($1, substr($in, $length, $2));
            substr($in, 0, $length + $2, '');
            begin($id, $script);
            next;
        }
        substr($in, 0, $length, '');
        if ($line =~ /^stop (\d+)$/) {
            my $id = $1;
            kill 'TERM', -$_->{pid} for grep { $_->{id} == $id } values %jobs;
        }
    }
}

sub hear {
    my $job = shift;
    my $read = sysread $job->{pipe}, $job->{rest}, 65536, length $job->{rest};
    my $is_over = !defined $read || $read == 0;
    $job->{rest} .= "\n" if $is_over && length $job->{rest};
    while ($job->{rest} =~ s/^([^\n]*)\n//) {
        say_line("out $job->{id} $1");
    }
    return unless $is_over;
    $select->remove($job->{pipe});
    delete $jobs{ fileno $job->{pipe} };
    close $job->{pipe};
    waitpid $job->{pid}, 0;
    say_line("end $job->{id} " . ($? & 127 ? 128 + ($? & 127) : $? >> 8));
}

# On a line of its own, whatever an agent of the boot before had begun to say.
say_line("\nhello " . boot_id());
while (1) {
    for my $handle ($select->can_read(10)) {
        if ($handle == $port) { take_in() }
        else                  { hear($jobs{ fileno $handle }) }
    }
}
