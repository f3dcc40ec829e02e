<?php

declare(strict_types=1);

namespace Roster\Worker;

/**
 * What the application's callables return.
 *
 * @internal
 */
final class Returned
{
    /**
     * What it has returned, unless that is a generator: such a callable has done nothing yet.
     *
     * @param string $what a description of the callable, for people
     * @throws \LogicException
     */
    public static function by(string $what, mixed $returned): mixed
    {
        if ($returned instanceof \Generator) {
            throw new \LogicException("$what has a `yield` in it, so that nothing of it was run: it returned a generator");
        }
        return $returned;
    }
}
