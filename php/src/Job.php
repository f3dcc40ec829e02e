<?php

declare(strict_types=1);

namespace Roster;

/** A job as it stands. Times are in ms since 1970. */
final class Job
{
    /**
     * @param ?JobState $state null: one that is not known here
     * @param string $payload as it was enqueued
     * @param int $attempt how often it was handed out
     * @param int $failures how often that failed
     * @param ?int $stateAt when it is due, its lease ends, or it died
     * @param ?string $error why it failed last
     */
    public function __construct(
        public readonly int $id,
        public readonly string $queue,
        public readonly string $name,
        public readonly string $payload,
        public readonly ?JobState $state,
        public readonly int $priority,
        public readonly int $attempt,
        public readonly int $failures,
        public readonly int $retries,
        public readonly int $timeoutMs,
        public readonly int $enqueuedAt,
        public readonly ?int $stateAt,
        public readonly ?string $error,
    ) {
    }

    /**
     * What it was enqueued with, of a payload that is JSON.
     *
     * @throws \JsonException if it is none
     */
    public function args(): mixed
    {
        return json_decode($this->payload, true, 512, JSON_THROW_ON_ERROR);
    }
}
