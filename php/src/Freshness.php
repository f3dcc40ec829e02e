<?php

declare(strict_types=1);

namespace Roster;

/** How far an answer can be trusted. */
final class Freshness
{
    /**
     * @param int $revision the revision of the answer; it never goes back, even across restarts of the sidecar
     * @param int $ageMs 0 while the sources behind the answer are in sync, else the time since they last were
     * @param bool $complete false if the sources are known to hold more than the sidecar does
     */
    public function __construct(
        public readonly int $revision,
        public readonly int $ageMs,
        public readonly Origin $origin,
        public readonly bool $complete,
        public readonly Transport $from,
    ) {
    }
}
