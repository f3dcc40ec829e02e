<?php
// A master without a connection: runs the closures that come on its input, one in base64 a line, each with a stream
// of its own, and writes what the streams give.
require __DIR__ . '/../../../tests/it/php/master/classes.php';
require __DIR__ . '/../../../tests/it/php/master/tunnel.php';
require __DIR__ . '/../../../tests/it/php/master/Demo.php';

use ReactphpX\RegisterCenter\ServiceRegistry;

ServiceRegistry::$services = ['demo' => new Demo(), "x'); exit('" => new Demo(), 'bare' => new Demo()];
ServiceRegistry::$metadata = ['demo' => ['version' => '1.2.0', 'weight' => 0.5, 'f' => fn () => 1, 'r' => STDIN]];
foreach (file('php://stdin') as $uuid => $line) {
    $stream = new Stream((string) $uuid, fn (array $message) => fwrite(STDOUT, pack_value($message)));
    $stream->run(base64_decode($line));
}
