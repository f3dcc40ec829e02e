<?php

declare(strict_types=1);

namespace Roster;

use Roster\Exception\InvalidRequest;
use Roster\Wire\MessagePack;

/** One call of a method, for `Client::callMany`. */
final class Call
{
    public readonly string $service;
    public readonly Balance $balance;
    public readonly ?string $key;
    /** As MessagePack; empty if there are none. */
    public readonly string $arguments;

    /**
     * @param array<mixed> $args a list, or values by parameter name
     * @param int $timeoutMs how long all attempts may take together
     * @param int $retries how often it may be retried on another master, if that is safe
     * @param bool $idempotent whether it may safely be executed twice
     * @param ?string $version a version requirement in Composer's syntax, such as `^1.2`; null: the newest
     * @param ?Balance $balance null: by the key, or else `LeastOutstanding`
     * @param string|int|null $key the same master for the same key, as long as it offers the service
     * @param bool $allValues whether to return every value of a method with many, or only the last one
     * @throws InvalidRequest if the arguments cannot be sent: resources, closures, infinite nesting
     */
    public function __construct(
        string|int $service,
        public readonly string $method,
        array $args = [],
        public readonly int $timeoutMs = 5_000,
        public readonly int $retries = 2,
        public readonly bool $idempotent = false,
        public readonly ?string $version = null,
        ?Balance $balance = null,
        string|int|null $key = null,
        public readonly bool $allValues = false,
    ) {
        $this->service = (string) $service;
        $this->balance = $balance ?? ($key === null ? Balance::LeastOutstanding : Balance::Key);
        $this->key = $key === null ? null : (string) $key;
        try {
            $this->arguments = $args === [] ? '' : MessagePack::pack($args);
        } catch (\InvalidArgumentException $error) {
            throw new InvalidRequest('args', "they cannot be sent: {$error->getMessage()}");
        }
    }
}
