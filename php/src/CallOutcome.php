<?php

declare(strict_types=1);

namespace Roster;

use Roster\Exception\RosterException;

/** What one of several calls came to: a result or an error. */
final class CallOutcome
{
    /**
     * @param ?string $master the id of the master; null where none was reached
     * @param ?CallResult $result null where there is an error
     * @param ?RosterException $error what `Client::call` would have thrown
     */
    public function __construct(
        public readonly ?string $master,
        public readonly ?CallResult $result,
        public readonly ?RosterException $error,
    ) {
    }

    /**
     * What the method gave.
     *
     * @throws RosterException if the call failed
     */
    public function value(): mixed
    {
        return $this->result === null ? throw $this->error : $this->result->value;
    }
}
