<?php

declare(strict_types=1);

namespace Roster;

/** The outcome for one process of a worker that was added or removed. */
final class WorkerOutcome
{
    /**
     * @param ?string $error why it does not run, or has not ended; null: it does, or has
     */
    public function __construct(public readonly string $worker, public readonly ?string $error)
    {
    }
}
