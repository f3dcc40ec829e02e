<?php

declare(strict_types=1);

namespace Roster;

/** How far a job is that somebody performs. */
final class JobProgress
{
    /**
     * @param int $percent from 0 to 100
     * @param string $note for people
     * @param int $reportedAt when that was reported, in ms since 1970
     */
    public function __construct(
        public readonly int $percent,
        public readonly string $note,
        public readonly int $reportedAt,
    ) {
    }
}
