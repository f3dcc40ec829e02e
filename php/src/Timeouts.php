<?php

declare(strict_types=1);

namespace Roster;

/** How long to wait for the sidecar. */
final class Timeouts
{
    /**
     * @param int $connectMs for a connection
     * @param int $readMs for the next bytes of an answer
     * @param int $totalMs for the answer, over all transports together; for each part of an answer in several parts
     */
    public function __construct(
        public readonly int $connectMs = 100,
        public readonly int $readMs = 250,
        public readonly int $totalMs = 750,
    ) {
        if (min($connectMs, $readMs, $totalMs) <= 0) {
            throw new \InvalidArgumentException('a timeout must be longer than nothing');
        }
    }
}
