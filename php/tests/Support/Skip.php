<?php

declare(strict_types=1);

namespace Roster\Tests\Support;

use PHPUnit\Framework\Assert;

/** Skips a test, and says so on a line that is shown whatever PHPUnit shows. */
final class Skip
{
    public static function because(string $why): never
    {
        fwrite(STDERR, "\nSKIPPED: $why\n");
        Assert::markTestSkipped($why);
    }
}
