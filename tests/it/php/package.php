<?php
// A master of the unmodified package: php package.php PORT TOKEN, with the path of Composer's autoloader in
// ROSTER_REGISTER_CENTER.
require getenv('ROSTER_REGISTER_CENTER');

use React\EventLoop\Loop;
use React\Promise\Deferred;
use React\Stream\ThroughStream;
use ReactphpX\RegisterCenter\Master;
use ReactphpX\RegisterCenter\ServiceRegistry;

class Sample
{
    public function echo(...$arguments) { return $arguments; }
    public function optional($first = 1, $second = 2) { return [$first, $second]; }
    public function bytes() { return "\xff\x00\xfe"; }
    public function empty() { return [[], new stdClass()]; }
    public function values() { yield 1; yield 'two'; }
    public function fail() { throw new DomainException('as the test wants', 7); }
    public function memory() { gc_collect_cycles(); return memory_get_usage(); }

    public function later($value)
    {
        $deferred = new Deferred();
        Loop::addTimer(0.01, fn () => $deferred->resolve($value));
        return $deferred->promise();
    }

    public function stream()
    {
        $stream = new ThroughStream();
        Loop::futureTick(fn () => [$stream->write('first'), $stream->end('last')]);
        return $stream;
    }

    public function forever()
    {
        while (true) {
            yield str_repeat('x', 10_000);
        }
    }
}

[, $port, $token] = $argv;
ServiceRegistry::register('sample', new Sample(), ['version' => '1.2.0']);
$master = new Master(retryAttempts: PHP_INT_MAX, retryDelay: 0.2, reconnectOnClose: true);
$master->on('connect', fn ($tunnel) => $tunnel->write(['cmd' => 'auth', 'token' => $token]));
$master->connectViaConnector('127.0.0.1', (int) $port);
Loop::run();
