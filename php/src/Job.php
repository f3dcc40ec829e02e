<?php

declare(strict_types=1);

namespace Roster;

use Roster\Exception\Disconnected;
use Roster\Exception\InvalidRequest;
use Roster\Exception\JobBuried;
use Roster\Exception\JobReleased;
use Roster\Exception\Overloaded;
use Roster\Worker\Lease;

/** A job as it stands. Times are in ms since 1970. */
final class Job
{
    /**
     * @param ?JobState $state null: one that is not known here
     * @param string $payload as it was enqueued
     * @param int $attempt how often it was handed out
     * @param int $failures how often that failed
     * @param ?int $stateAt when it is due, its lease ends, it died, or is forgotten
     * @param ?string $error why it failed last
     * @param ?JobProgress $progress how far it is, as whoever performs it says
     * @param ?string $result what it returned, of one that is done: JSON, if a worker of the package performed it
     * @param ?Lease $lease of the process that performs it
     * @param bool $isBuffered whether it waits on this host until Redis has it
     * @param ?string $uniqueKey the key that no other job of its queue may have now
     * @param ?int $dueAt of one that recurs: for which time it was enqueued, perhaps later
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
        public readonly ?JobProgress $progress = null,
        private readonly ?Lease $lease = null,
        public readonly ?string $result = null,
        public readonly bool $isBuffered = false,
        public readonly ?string $uniqueKey = null,
        public readonly ?string $limitKey = null,
        public readonly ?int $dueAt = null,
    ) {
    }

    /**
     * What it was enqueued with, of a payload that is JSON, integers beyond PHP's as strings; null: with nothing.
     *
     * @throws \JsonException if it is no JSON
     */
    public function args(): mixed
    {
        return self::decoded('payload', $this->payload);
    }

    /**
     * What it returned, of one that is done; null: nothing that was kept.
     *
     * @throws \JsonException if it is no JSON
     */
    public function result(): mixed
    {
        return self::decoded('result', $this->result ?? '');
    }

    private static function decoded(string $what, string $json): mixed
    {
        try {
            return $json === '' ? null : json_decode($json, true, 512, JSON_THROW_ON_ERROR | JSON_BIGINT_AS_STRING);
        } catch (\JsonException $error) {
            throw new \JsonException("the $what is no JSON: {$error->getMessage()}", $error->getCode(), $error);
        }
    }

    /**
     * Has the sidecar wait longer for this job, which is being performed: as long as its timeout, from now on.
     *
     * @throws InvalidRequest if this process does not perform it, or no more
     * @throws Overloaded if the sidecar does not read for ten seconds
     * @throws Disconnected if it is gone: the job is another's
     */
    public function touch(): void
    {
        $this->lease()->report([]);
    }

    /**
     * Tells whoever asks for this job, which is being performed, how far it is. It does not prolong its time.
     *
     * @param int $percent from 0 to 100
     * @param string $note for people; 256 bytes of it are kept
     * @throws InvalidRequest if this process does not perform it, or no more
     * @throws Overloaded if the sidecar does not read for ten seconds
     * @throws Disconnected if it is gone: the job is another's
     */
    public function progress(int $percent, string $note = ''): void
    {
        $this->lease()->report(['percent' => max(0, min(100, $percent)), 'note' => Text::cut($note, 256)]);
    }

    /**
     * Gives this job back when what performs it returns or throws, which is no failure then.
     *
     * @param int $delayMs for how long it is not performed
     * @throws InvalidRequest if this process does not perform it, or no more
     */
    public function release(int $delayMs = 0): void
    {
        $this->lease()->outcome = new JobReleased($delayMs);
    }

    /**
     * Has this job die when what performs it returns or throws, however often it might be tried again.
     *
     * @throws InvalidRequest if this process does not perform it, or no more
     */
    public function bury(string $why): void
    {
        $this->lease()->outcome = new JobBuried($why);
    }

    private function lease(): Lease
    {
        if ($this->lease === null || $this->lease->isOver()) {
            throw new InvalidRequest('job', "this process does not perform job $this->id, or no more");
        }
        return $this->lease;
    }
}
