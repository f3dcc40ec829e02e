<?php

declare(strict_types=1);

namespace Roster;

use Roster\Exception\InvalidRequest;

/** A job to be enqueued. */
final class NewJob
{
    /** What is kept of the arguments: JSON. */
    public readonly string $payload;
    /** For how long it is not performed. */
    public readonly int $delayMs;

    /**
     * @param string $name what is to be done, the application's own word
     * @param mixed $args what it needs, kept as JSON
     * @param int $delayMs for how long it is not performed
     * @param ?\DateTimeInterface $at until when it is not performed, in place of a delay; what is past is now
     * @param ?int $priority from 0, the most urgent, to 9; null: 5
     * @param ?string $unique no other job of the queue with this key is enqueued until this one is done
     * @param bool $untilStart whether it is unique only until it is handed out
     * @param ?int $retries how often it is tried again if it fails; null: as the sidecar's
     *     `[[queue.default]]` says for the queue, or `queue.retries`
     * @param ?int $attemptTimeoutMs how long one attempt may take; null: as the sidecar's
     *     `[[queue.default]]` says for the queue, or `queue.timeout`
     * @param ?string $limitKey jobs with the same one share the limits that the queue has of each key
     * @param ?int $keepResultMs how long it is kept with its result once it is done; null: as the sidecar's
     *     `queue.keep_results` says
     * @throws InvalidRequest if the arguments are no JSON, or there are both a delay and a time
     */
    public function __construct(
        public readonly string $queue,
        public readonly string $name,
        mixed $args = [],
        int $delayMs = 0,
        public readonly ?int $priority = null,
        public readonly ?string $unique = null,
        public readonly bool $untilStart = false,
        public readonly ?int $retries = null,
        public readonly ?int $attemptTimeoutMs = null,
        public readonly ?string $limitKey = null,
        public readonly ?int $keepResultMs = null,
        ?\DateTimeInterface $at = null,
    ) {
        if ($at !== null && $delayMs !== 0) {
            throw new InvalidRequest('at', 'there is a `delayMs` too');
        }
        $this->delayMs = $at === null ? $delayMs : self::delay($at);
        try {
            $flags = JSON_THROW_ON_ERROR | JSON_UNESCAPED_SLASHES | JSON_PRESERVE_ZERO_FRACTION;
            $this->payload = json_encode($args, $flags);
        } catch (\JsonException $error) {
            throw new InvalidRequest('args', "they are no JSON: {$error->getMessage()}");
        }
    }

    private static function delay(\DateTimeInterface $at): int
    {
        return max(0, (int) ceil(((float) $at->format('U.u') - microtime(true)) * 1_000));
    }
}
