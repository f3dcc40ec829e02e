<?php

declare(strict_types=1);

namespace Roster;

/** The result of a call. Strings are the bytes that the master sent, lists and maps are arrays. */
final class CallResult
{
    /**
     * @param mixed $value what the method returned; of many values the last one, null if there was none
     * @param list<mixed> $values every value, if all were asked for
     * @param string $master the id of the master that answered
     * @param int $attempts how many masters were tried
     */
    public function __construct(
        public readonly mixed $value,
        public readonly array $values,
        public readonly string $master,
        public readonly float $durationMs,
        public readonly int $attempts,
    ) {
    }
}
