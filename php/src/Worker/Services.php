<?php

declare(strict_types=1);

namespace Roster\Worker;

use Roster\Exception\InvalidRequest;
use Roster\Wire\MessagePack;

/**
 * What a worker offers: objects whose public methods can be called.
 *
 * @internal
 */
final class Services
{
    /** A register's limit for one service, including the metadata's own bytes. */
    private const MAX_METADATA_BYTES = 16 << 10;
    /** The list has three levels around them. */
    private const MAX_METADATA_DEPTH = 28;

    /** @var array<array{object, array<mixed>}> objects and their metadata, by name */
    private array $offered = [];

    /** @param array<mixed> $metadata */
    public function offer(string $name, object $service, array $metadata): void
    {
        if ($name === '') {
            throw new InvalidRequest('name', 'a service needs one');
        }
        if (isset($metadata[0]) && array_is_list($metadata)) {
            throw new InvalidRequest('metadata', 'they are values by their names');
        }
        try {
            $room = self::MAX_METADATA_BYTES - strlen($name);
            // As it is now, whatever happens to the objects in it.
            $metadata = MessagePack::unpack(MessagePack::pack($metadata, self::MAX_METADATA_DEPTH, $room));
        } catch (\InvalidArgumentException | \LengthException $why) {
            throw new InvalidRequest('metadata', "they cannot be sent: {$why->getMessage()}");
        }
        $this->offered[$name] = [$service, $metadata];
    }

    public function isEmpty(): bool
    {
        return $this->offered === [];
    }

    /** In a register's form: names and metadata. */
    public function list(): object
    {
        $offered = [];
        foreach ($this->offered as $name => [, $metadata]) {
            $offered[$name] = ['name' => (string) $name, 'metadata' => (object) $metadata];
        }
        return (object) $offered;
    }

    /**
     * Calls a method.
     *
     * @param array<mixed> $arguments positional, then named
     */
    public function call(string $name, string $method, array $arguments): mixed
    {
        [$service] = $this->offered[$name] ?? throw new NotFound("Service '$name' not found");
        // Methods that only __call() would handle do not exist here, and a constructor cannot be called.
        if (str_starts_with($method, '__') || !method_exists($service, $method)
            || !($reflected = new \ReflectionMethod($service, $method))->isPublic()) {
            throw new NotFound("Method '$method' not found in service '$name'");
        }
        $named = array_filter($arguments, 'is_string', ARRAY_FILTER_USE_KEY);
        $listed = array_diff_key($arguments, $named);
        ksort($listed);
        // Through the engine, which accepts '7' for an int as PHP does in files that are not strict.
        return $reflected->invokeArgs($reflected->isStatic() ? null : $service, [...array_values($listed), ...$named]);
    }
}
