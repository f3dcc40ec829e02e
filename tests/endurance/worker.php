<?php
// A worker of the scene: answers who connects and who calls, performs jobs, and starts a process that leaves its session.
// While there is a file `broken` in the folder, its code does not boot.
require __DIR__ . '/../../php/autoload.php';

final class Work
{
    /** Leaves a trace of each time that it was called, and takes long enough to be broken off. */
    public function append(string $trace, string $line): void
    {
        if (file_put_contents($trace, $line, FILE_APPEND) !== strlen($line)) {
            throw new RuntimeException('there is no trace');
        }
        usleep(20_000);
    }
}

/** Leaves a trace of when each attempt begins and ends. The first one of a job `hang` takes longer than its lease. */
function perform(string $trace, Roster\Job $job): void
{
    $write = static function (string $what) use ($trace, $job): void {
        $line = "$what $job->payload $job->id $job->attempt " . intdiv(hrtime(true), 1_000_000) . "\n";
        if (@file_put_contents($trace, $line, FILE_APPEND) !== strlen($line)) {
            throw new RuntimeException('there is no trace');
        }
    };
    $write('begun');
    usleep($job->name === 'hang' && $job->attempt === 1 ? 5_000_000 : random_int(0, 5_000));
    $write('ended');
}

$worker = Roster\Worker::fromEnvironment();
if (file_exists($worker->params()['folder'] . '/broken')) {
    exit(1);
}
$nothing = ['file', '/dev/null', 'r+'];
proc_open(['setsid', 'sleep', '1800'], [$nothing, $nothing, $nothing], $pipes);
$worker->offer('work', new Work());
$trace = $worker->params()['folder'] . '/jobs';
$worker->perform('php', fn (Roster\Job $job) => perform($trace, $job), concurrency: 2);
foreach ($worker->listeners() as $listener) {
    $worker->watch($listener, function ($listener) {
        // Another process may have taken it.
        $visitor = @stream_socket_accept($listener, 0);
        if ($visitor !== false) {
            $line = fgets($visitor);
            usleep(random_int(0, 5_000));
            fwrite($visitor, "answer to $line");
            fclose($visitor);
        }
    });
}
$worker->ready();
$worker->run();
