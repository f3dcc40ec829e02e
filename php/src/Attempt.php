<?php

declare(strict_types=1);

namespace Roster;

/** One transport, and the result of a request over it. */
final class Attempt
{
    /**
     * @param string $target its address
     * @param ?bool $answered null if it was not tried
     * @param ?string $failure why it did not answer
     */
    public function __construct(
        public readonly Transport $transport,
        public readonly string $target,
        public readonly ?bool $answered = null,
        public readonly ?string $failure = null,
    ) {
    }

    public function __toString(): string
    {
        return "$this->target: " . ($this->failure ?? ($this->answered ? 'answered' : 'not tried'));
    }
}
