<?php
// A master without a connection. On its input is a closure, and then what the register sends on the closure's stream, one
// in base64 a line; it writes what the stream gives. Every value counts as taken.
require __DIR__ . '/../../../../tests/it/php/master/react.php';
require __DIR__ . '/../../../../tests/it/php/master/classes.php';
require __DIR__ . '/../../../../tests/it/php/master/tunnel.php';
require __DIR__ . '/../../../../tests/it/php/master/Demo.php';

use React\EventLoop\Loop;
use ReactphpX\RegisterCenter\ServiceRegistry;

$metadata = ['version' => '1.2.0', 'weight' => 0.5, 'f' => fn () => 1, 'r' => STDIN];
ServiceRegistry::register('demo', new Demo(), $metadata);
ServiceRegistry::register("x'); exit('", new Demo());
ServiceRegistry::register('bare', new Demo());

$tunnel = new Tunnel(function (array $message) use (&$tunnel) {
    fwrite(STDOUT, pack_value($message));
    if (($message['data'][0] ?? null) === 'value') {
        Loop::futureTick(fn () => $tunnel->hear('data', 'trunk', ['taken', $message['data'][1], 1]));
    }
});
$lines = array_map('base64_decode', file('php://stdin'));
$tunnel->run('trunk', array_shift($lines));
foreach ($lines as $line) {
    $tunnel->hear('data', 'trunk', (new Unpacker($line))->value());
}
while (Loop::turn());
