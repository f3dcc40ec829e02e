<?php

declare(strict_types=1);

namespace Roster\Exception;

/** The master's own error, with its code; or the connection was lost with the call under way. */
final class CallFailed extends RosterException
{
    /**
     * @param string $master its id; empty if unknown
     * @param ?string $className the class of the master's exception
     * @param bool $lost true: it is unknown whether the call was executed
     */
    public function __construct(
        string $message,
        public readonly string $master = '',
        public readonly ?string $className = null,
        int $code = 0,
        public readonly bool $lost = false,
    ) {
        parent::__construct($message, $code);
    }
}
