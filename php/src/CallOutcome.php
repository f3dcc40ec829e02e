<?php

declare(strict_types=1);

namespace Roster;

use Roster\Exception\RosterException;

/** The outcome of one of several calls: a result or an error. */
final class CallOutcome
{
    /**
     * @param ?string $master the id of the master; null if none was reached
     * @param ?CallResult $result null if there is an error
     * @param ?RosterException $error what `Client::call` would have thrown
     */
    public function __construct(
        public readonly ?string $master,
        public readonly ?CallResult $result,
        public readonly ?RosterException $error,
    ) {
    }

    /**
     * What the method returned.
     *
     * @throws RosterException if the call failed
     */
    public function value(): mixed
    {
        return $this->result === null ? throw $this->error : $this->result->value;
    }
}
