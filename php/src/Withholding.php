<?php

declare(strict_types=1);

namespace Roster;

/** For how long an instance is not chosen, though it is registered, and why. */
final class Withholding
{
    /**
     * @param int $since since when, in ms since 1970
     * @param int $endsAt until when
     */
    public function __construct(
        public readonly int $since,
        public readonly int $endsAt,
        public readonly string $reason,
    ) {
    }
}
