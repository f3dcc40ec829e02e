<?php
// A master for the tests: php master.php PORT TOKEN [NAME]…
// It runs the closures that a register sends, as an unmodified master does; with ROSTER_REGISTER_CENTER in its environment,
// which names Composer's autoload.php, it is one of the unmodified package. It offers `demo`, `control`, and under each
// NAME (or NAME@VERSION) what `demo` offers. It says on its output what happens. With CLOSURE_KEY in its environment
// it runs only closures that are signed with it. REGISTER_HOST is another host than this one; with REJOIN, it connects
// again to those whose address has several colons.
require __DIR__ . (getenv('ROSTER_REGISTER_CENTER') ? '/master/Package.php' : '/master/Master.php');
require __DIR__ . '/master/Demo.php';

use React\EventLoop\Loop;
use React\Promise\Deferred;
use ReactphpX\RegisterCenter\ServiceRegistry;

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
        $result = new Deferred(fn () => print("cancelled\n"));
        Loop::addTimer($seconds, fn () => $result->resolve($value));
        return $result->promise();
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
