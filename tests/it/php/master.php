<?php
// A master for the tests: php master.php PORT TOKEN [NAME]…
// It runs the closures that a register sends, as an unmodified master does. It offers `demo`, `control`, and under each
// NAME (or NAME@VERSION) what `demo` offers. It says on its output what happens. With CLOSURE_KEY in its environment
// it runs only closures that are signed with it. REGISTER_HOST is another host than this one; `tls://…` believes the
// authorities in the file REGISTER_CA; with REJOIN, it connects again to those whose address has several colons.
require __DIR__ . '/master/react.php';
require __DIR__ . '/master/classes.php';
require __DIR__ . '/master/tunnel.php';
require __DIR__ . '/master/Demo.php';
require __DIR__ . '/master/Connection.php';

use React\EventLoop\Loop;
use React\Promise\Pending;
use ReactphpX\RegisterCenter\ServiceRegistry;

/** All that a master waits for. */
class Master
{
    /** The connections to registers, by their addresses. */
    public static array $connections = [];
    public static string $token;

    public static function join(string $host, int $port): void
    {
        self::$connections["$host:$port"] ??= new Connection($host, $port, self::$token);
    }

    public static function leave(string $host, int $port): void
    {
        (self::$connections["$host:$port"] ?? null)?->leave();
        unset(self::$connections["$host:$port"]);
    }

    /** What an application of the package does about registers by TLS or IPv6, with REJOIN in its environment. */
    public static function closed(string $host, int $port): void
    {
        if (getenv('REJOIN')) {
            Loop::addTimer(1.0, function () use ($host, $port) {
                self::leave($host, $port);
                self::join($host, $port);
            });
        }
    }

    public static function announce(array $message): void
    {
        foreach (self::$connections as $connection) {
            $connection->say($message);
        }
    }

    public static function run(): never
    {
        Loop::run(function (int $micros) {
            $connected = array_filter(self::$connections, fn ($connection) => $connection->socket());
            $read = array_map(fn ($connection) => $connection->socket(), $connected);
            $write = array_intersect_key($read, array_filter($connected, fn ($connection) => $connection->hasUnsent()));
            $none = null;
            $read ? stream_select($read, $write, $none, 0, $micros) : usleep($micros);
            foreach ($write as $address => $_) {
                $connected[$address]->write();
            }
            foreach ($read as $address => $_) {
                // One that was read before it may have left this one.
                (self::$connections[$address] ?? null)?->read();
            }
        });
    }
}

/** What a test does with the master, by calls. */
class Control
{
    public function pid() { return getmypid(); }
    public function announce(array $message) { Master::announce($message); }
    public function die() { posix_kill(getmypid(), SIGKILL); }

    /** Is deaf and dumb for so long. */
    public function hang(float $seconds) { usleep((int) ($seconds * 1e6)); }

    /** The most that it held since this was asked last. */
    public function peak()
    {
        $peak = memory_get_peak_usage();
        memory_reset_peak_usage();
        return $peak;
    }

    /** What the process holds when nothing waits to be thrown away. */
    public function memory() { gc_collect_cycles(); return memory_get_usage(); }

    /** Answers so much later, and does other things meanwhile. */
    public function later(float $seconds, $value = null)
    {
        $promise = new Pending(fn () => print("cancelled\n"));
        Loop::addTimer($seconds, fn () => $promise->fulfil($value));
        return $promise;
    }

    /** Leaves a trace of each time that it was called. */
    public function append(string $path, string $text) { file_put_contents($path, $text, FILE_APPEND); }

    public function offer(string $name, array $metadata = [])
    {
        ServiceRegistry::register($name, new Demo(), $metadata);
        Master::announce(['cmd' => 'register']);
    }

    public function withdraw(string $name)
    {
        ServiceRegistry::remove($name);
        Master::announce(['cmd' => 'register']);
    }

    public function remove() { Master::announce(['cmd' => 'remove']); }
}

[, $port, Master::$token] = $argv;
ServiceRegistry::register('demo', new Demo(), ['version' => '1.2.0', 'zone' => 'b', 'weight' => 3]);
ServiceRegistry::register('control', new Control());
foreach (array_slice($argv, 3) as $name) {
    ServiceRegistry::register($name, new Demo());
}
Master::join(getenv('REGISTER_HOST') ?: '127.0.0.1', (int) $port);
Master::run();
