<?php

declare(strict_types=1);

namespace Roster\Wire;

use Roster\Exception\TransportFailed;

/**
 * The pages of an answer, which have to end: over TCP, anybody may answer.
 *
 * @internal
 */
final class Pages
{
    /** Some 12 GiB of full ones. */
    private const MOST = 100_000;

    /** @var array<string, true> the cursors of those that were asked for */
    private array $seen = [];

    /**
     * Whether another page follows.
     *
     * @throws TransportFailed if they have no end
     */
    public function follow(?string $cursor): bool
    {
        if ($cursor === null) {
            return false;
        }
        if (isset($this->seen[$cursor]) || count($this->seen) === self::MOST) {
            throw new TransportFailed('a strange answer: its pages do not end', isSent: true, isStrange: true);
        }
        return $this->seen[$cursor] = true;
    }
}
