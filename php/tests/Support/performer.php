<?php

declare(strict_types=1);

// A worker of the tests that performs jobs of `mail`, by what they are called, and those of `classes`.

use Roster\Exception\JobBuried;
use Roster\Exception\JobReleased;
use Roster\Job;
use Roster\Worker;

require __DIR__ . '/../../autoload.php';

function record(string $line): void
{
    file_put_contents((string) getenv('PERFORMED'), "$line\n", FILE_APPEND | LOCK_EX);
}

function giveBack(Job $job): void
{
    $job->attempt < 3 && $job->release(10);
}

function giveUp(Job $job): void
{
    $job->bury('for good');
    throw new DomainException('no route');
}

/** Longer than it may, until somebody has seen how far it is. */
function takeLong(Job $job): void
{
    for ($step = 1; !file_exists(getenv('PERFORMED') . '.seen') && $step < 600; $step++) {
        $job->touch();
        $job->progress(min($step, 99), "step $step \xff");
        usleep(100_000);
    }
}

function exhaust(): void
{
    ini_set('memory_limit', (string) (memory_get_usage(true) + (4 << 20)));
    // Small pieces, so that nothing is left of it.
    for ($all = [];;) {
        $all[] = new stdClass();
    }
}

/** A child that ends is no end of its job. */
function fork(): void
{
    $child = pcntl_fork();
    if ($child === 0) {
        exit(0);
    }
    pcntl_waitpid($child, $status);
}

final class Unserializable implements JsonSerializable
{
    public function jsonSerialize(): never
    {
        throw new DomainException('it is no JSON');
    }
}

final class EmailWork
{
    public mixed $args;
    public ?Job $job = null;
    public string $queue = '';
    private string $begun = '';

    public function setUp(): void
    {
        $this->begun = 'set up';
    }

    public function perform(): string
    {
        record("$this->begun {$this->args['to']} $this->queue {$this->job->attempt}");
        return $this->args['to'];
    }

    public function tearDown(): void
    {
        record('torn down');
    }
}

/** It declares no property that it is given, and has one of such a name for itself. */
final class Undeclared
{
    private string $queue = 'its own';

    public function perform(): void
    {
        record(json_encode([$this->args, $this->job->name, $this->queue]));
    }
}

/** Its arguments are not to change. */
final class Unchangeable
{
    public function __construct(public readonly array $args = [])
    {
    }

    public function perform(): void
    {
        record(json_encode([$this->args, $this->queue]));
    }
}

// As frameworks have it.
set_error_handler(static function (int $level, string $message): bool {
    return (error_reporting() & $level) === 0 ? false : throw new ErrorException($message, 0, $level);
});
$worker = Worker::fromEnvironment();
$worker->perform('mail', static function (Job $job): mixed {
    record("$job->name $job->attempt");
    return match ($job->name) {
        'fail' => throw new DomainException('no route'),
        'fail at length' => throw new DomainException('a' . str_repeat('é', 1_000)),
        'bury' => throw new JobBuried('never'),
        'release' => $job->attempt < 3 ? throw new JobReleased(10) : null,
        'given back' => giveBack($job),
        'given up' => giveUp($job),
        'long' => takeLong($job),
        'returns' => ['sum' => 3.0, 'of' => ['/a', 'ü']],
        'returns too much' => str_repeat('a', 2 << 20),
        'returns much' => str_repeat('a', 100_000),
        'returns what throws' => new Unserializable(),
        'die' => posix_kill(getmypid(), SIGKILL),
        'exhaust' => exhaust(),
        'exit' => exit(1),
        'fork' => fork(),
        default => null,
    };
}, concurrency: 3);
$worker->perform('classes');
foreach (['limited', 'keyed'] as $queue) {
    $worker->perform($queue, static function (Job $job): void {
        record("$job->queue $job->name");
        usleep(20_000);
        record("$job->queue $job->name is done");
    }, concurrency: 2);
}
foreach (['light' => 1, 'heavy' => 3] as $queue => $weight) {
    $worker->perform($queue, static fn (Job $job) => record($job->queue), weight: $weight);
}
$worker->ready();
$worker->run();
