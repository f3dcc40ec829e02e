<?php

declare(strict_types=1);

namespace Roster;

/** One thing that a watch of workers tells. */
final class WorkerChange
{
    /**
     * @param string $worker its name; empty for a reset
     * @param ?WorkerReport $report as it is now; null when it is gone, and for a reset
     */
    public function __construct(
        public readonly ChangeKind $kind,
        public readonly string $worker,
        public readonly ?WorkerReport $report,
    ) {
    }
}
