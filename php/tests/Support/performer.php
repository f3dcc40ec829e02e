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

    public function perform(): void
    {
        record("$this->begun {$this->args['to']} $this->queue {$this->job->attempt}");
    }

    public function tearDown(): void
    {
        record('torn down');
    }
}

$worker = Worker::fromEnvironment();
$worker->perform('mail', static function (Job $job): void {
    record("$job->name $job->attempt");
    match ($job->name) {
        'fail' => throw new DomainException('no route'),
        'bury' => throw new JobBuried('never'),
        'release' => $job->attempt < 3 ? throw new JobReleased(10) : null,
        'die' => posix_kill(getmypid(), SIGKILL),
        default => null,
    };
}, concurrency: 3);
$worker->perform('classes');
$worker->ready();
$worker->run();
