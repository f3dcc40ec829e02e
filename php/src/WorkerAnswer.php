<?php

declare(strict_types=1);

namespace Roster;

use Roster\Exception\CallFailed;

/** What a worker answered to a command, or why it did not. */
final class WorkerAnswer
{
    /**
     * @param string $worker such as `web/1`
     * @param mixed $value what the command gave; of many values the last one
     * @param ?CallFailed $error null where there is an answer
     */
    public function __construct(
        public readonly string $worker,
        public readonly mixed $value,
        public readonly ?CallFailed $error,
    ) {
    }

    /**
     * What the command gave.
     *
     * @throws CallFailed if there is no answer
     */
    public function value(): mixed
    {
        return $this->error === null ? $this->value : throw $this->error;
    }
}
