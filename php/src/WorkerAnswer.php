<?php

declare(strict_types=1);

namespace Roster;

use Roster\Exception\CallFailed;

/** A worker's answer to a command, or why there is none. */
final class WorkerAnswer
{
    /**
     * @param string $worker such as `web/1`
     * @param mixed $value what the command returned; of many values the last one
     * @param ?CallFailed $error null if there is an answer
     */
    public function __construct(
        public readonly string $worker,
        public readonly mixed $value,
        public readonly ?CallFailed $error,
    ) {
    }

    /**
     * What the command returned.
     *
     * @throws CallFailed if there is no answer
     */
    public function value(): mixed
    {
        return $this->error === null ? $this->value : throw $this->error;
    }
}
