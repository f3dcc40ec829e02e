<?php

declare(strict_types=1);

namespace Roster;

/** Since when, for how long and how an instance is served that no node registers any more. */
final class Held
{
    /**
     * @param int $since when it vanished, in ms since 1970
     * @param int $endsAt when it is considered gone at the latest
     * @param bool $passedOver whether it is not to be chosen: nothing answers at its address, and most of the service
     *     are well
     */
    public function __construct(
        public readonly int $since,
        public readonly int $endsAt,
        public readonly Probe $probe,
        public readonly bool $passedOver,
    ) {
    }
}
