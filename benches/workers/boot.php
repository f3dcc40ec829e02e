<?php
// A worker that does nothing: ready for its sidecar, or reporting to the socket that is named.
require __DIR__ . '/../../php/autoload.php';

if (isset($argv[1])) {
    $own = socket_create(AF_UNIX, SOCK_DGRAM, 0);
    $number = pack('l', getmypid());
    socket_sendto($own, $number, strlen($number), 0, $argv[1]);
    sleep(1_000);
    exit;
}
$worker = Roster\Worker::fromEnvironment();
$worker->ready();
$worker->run();
