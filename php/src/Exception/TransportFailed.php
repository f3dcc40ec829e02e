<?php

declare(strict_types=1);

namespace Roster\Exception;

/** One transport led to no answer; the next one is tried. Users see it as an attempt in `Unavailable`. */
final class TransportFailed extends RosterException
{
    /**
     * @param bool $isSent whether the whole request was sent, so that it may have been executed
     * @param bool $isStrange whether the answer to it cannot be one
     */
    public function __construct(
        string $message,
        public readonly bool $isSent = false,
        public readonly bool $timedOut = false,
        public readonly bool $isStrange = false,
    ) {
        parent::__construct($message);
    }
}
