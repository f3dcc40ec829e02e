<?php
// Prints the data of a coordination node: php get.php [PATH]
require __DIR__ . '/autoload.php';

use Roster\Thrift\GetRequest;
use Roster\Thrift\RosterClient;
use Thrift\Exception\TException;
use Thrift\Protocol\TBinaryProtocol;
use Thrift\Transport\TBufferedTransport;
use Thrift\Transport\TSocket;

$user = posix_getuid();
$runtime = getenv('XDG_RUNTIME_DIR') ?: "/run/user/$user";
$own = is_dir($runtime) ? "$runtime/roster/roster.sock" : "/tmp/roster-$user/roster.sock";
// One that is there may be left by a sidecar that was killed, or not be for this user.
$sockets = array_filter(['/run/roster/roster.sock', $own], static fn ($socket) => @fsockopen("unix://$socket"));
// Over TCP nobody knows who answers, so that only ROSTER_ADDRESS leads there.
$address = getenv('ROSTER_ADDRESS') ?: 'unix://' . (current($sockets) ?: '/run/roster/roster.sock');
// TSocket adds a port even to a Unix socket; Roster keeps a link `roster.sock:1` for it.
[$host, $port] = str_starts_with($address, 'unix:') ? [$address, 1] : explode(':', $address);

$transport = new TBufferedTransport(new TSocket($host, (int) $port));
$client = new RosterClient(new TBinaryProtocol($transport));
try {
    $transport->open();
    echo $client->get(new GetRequest(['path' => $argv[1] ?? '/zk_test']))->node->data, "\n";
    $transport->close();
} catch (TException $failure) {
    fwrite(STDERR, "{$failure->getMessage()}\n");
    exit(1);
}
