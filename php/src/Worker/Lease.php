<?php

declare(strict_types=1);

namespace Roster\Worker;

use Roster\Exception\JobBuried;
use Roster\Exception\JobReleased;

/**
 * One attempt of a job in the process that performs it.
 *
 * @internal
 */
final class Lease
{
    /** What was decided on the job. */
    public JobReleased|JobBuried|null $outcome = null;
    private bool $isOver = false;

    /** @param \Closure(array<string, mixed>): void $send sends the sidecar a report */
    public function __construct(
        private readonly int $id,
        private readonly int $attempt,
        private readonly \Closure $send,
    ) {
    }

    /** @param array<string, mixed> $what */
    public function report(array $what): void
    {
        ($this->send)(['cmd' => 'worker-job', 'id' => $this->id, 'attempt' => $this->attempt] + $what);
    }

    public function isOver(): bool
    {
        return $this->isOver;
    }

    public function end(): void
    {
        $this->isOver = true;
    }
}
