<?php

declare(strict_types=1);

namespace Roster\Tests;

use PHPUnit\Framework\TestCase;
use Roster\Wire\Version;

final class VersionTest extends TestCase
{
    private const ORDERED = __DIR__ . '/../../tests/fixtures/versions.json';

    public function testVersionsHaveTheOrderThatTheSidecarGivesThem(): void
    {
        $versions = json_decode(file_get_contents(self::ORDERED), flags: JSON_THROW_ON_ERROR);
        foreach ($versions as $at => $one) {
            foreach ($versions as $beside => $other) {
                self::assertSame($at <=> $beside, Version::compare($one, $other), "$one and $other");
            }
        }
    }
}
