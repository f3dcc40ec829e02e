<?php

declare(strict_types=1);

namespace Roster\Worker;

use Roster\Exception\Disconnected;

/**
 * The connection that a process inherits from the sidecar that started it. It is never replaced.
 *
 * @internal
 */
final class Channel
{
    /** @param resource $stream */
    public function __construct(private readonly mixed $stream)
    {
    }

    public function address(): string
    {
        return 'the sidecar';
    }

    /** @throws Disconnected if it has ended */
    public function open(): Line
    {
        return is_resource($this->stream) ? new Line($this->stream) : throw new Disconnected('the sidecar is gone');
    }
}
