<?php
// A master for the tests: php master.php PORT TOKEN [NAME]…
// It runs the closures that a register sends, as an unmodified master does. It offers `demo`, `control`, and under each
// NAME (or NAME@VERSION) what `demo` offers. It says on its output what happens. With CLOSURE_KEY in its environment
// it runs only closures that are signed with it. REGISTER_HOST is another host than this one; `tls://…` believes the
// authorities in the file REGISTER_CA.
require __DIR__ . '/master/classes.php';
require __DIR__ . '/master/tunnel.php';
require __DIR__ . '/master/Demo.php';
require __DIR__ . '/master/Connection.php';

use React\Promise\Pending;
use ReactphpX\RegisterCenter\ServiceRegistry;

/** All that a master waits for. */
class Master
{
    /** The connections to registers, by their addresses. */
    public static array $connections = [];
    private static array $timers = [];
    public static string $token;

    public static function after(float $seconds, callable $then): void
    {
        self::$timers[] = [microtime(true) + $seconds, $then];
    }

    public static function join(string $host, int $port): void
    {
        self::$connections["$host:$port"] ??= new Connection($host, $port, self::$token);
    }

    public static function leave(string $host, int $port): void
    {
        (self::$connections["$host:$port"] ?? null)?->leave();
        unset(self::$connections["$host:$port"]);
    }

    public static function announce(array $message): void
    {
        foreach (self::$connections as $connection) {
            $connection->say($message);
        }
    }

    public static function run(): never
    {
        while (true) {
            $sockets = array_filter(array_map(fn ($connection) => $connection->socket(), self::$connections));
            [$read, $none] = [$sockets, null];
            $sockets ? stream_select($read, $none, $none, 0, 5000) : usleep(5000);
            foreach ($read as $address => $_) {
                // One that was read before it may have left this one.
                (self::$connections[$address] ?? null)?->read();
            }
            $now = microtime(true);
            $due = array_filter(self::$timers, fn ($timer) => $timer[0] <= $now);
            self::$timers = array_diff_key(self::$timers, $due);
            foreach ($due as [, $then]) {
                $then();
            }
        }
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

    /** Answers so much later, and does other things meanwhile. */
    public function later(float $seconds, $value = null)
    {
        $promise = new Pending();
        Master::after($seconds, fn () => $promise->fulfil($value));
        return $promise;
    }

    /** Leaves a trace of each time that it was called. */
    public function append(string $path, string $text) { file_put_contents($path, $text, FILE_APPEND); }

    public function offer(string $name, array $metadata = [])
    {
        ServiceRegistry::$services[$name] = new Demo();
        ServiceRegistry::$metadata[$name] = $metadata;
        Master::announce(['cmd' => 'register']);
    }

    public function withdraw(string $name)
    {
        unset(ServiceRegistry::$services[$name], ServiceRegistry::$metadata[$name]);
        Master::announce(['cmd' => 'register']);
    }

    public function remove() { Master::announce(['cmd' => 'remove']); }
}

[, $port, Master::$token] = $argv;
ServiceRegistry::$services = ['demo' => new Demo(), 'control' => new Control()];
ServiceRegistry::$metadata = ['demo' => ['version' => '1.2.0', 'zone' => 'b', 'weight' => 3]];
foreach (array_slice($argv, 3) as $name) {
    ServiceRegistry::$services[$name] = new Demo();
}
Master::join(getenv('REGISTER_HOST') ?: '127.0.0.1', (int) $port);
Master::run();
