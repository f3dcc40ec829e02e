<?php

declare(strict_types=1);

namespace Roster\Tests;

use PHPUnit\Framework\TestCase;
use Roster\Job;
use Roster\Worker\Performers;

/** A job as whoever performs it has it. */
final class JobTest extends TestCase
{
    public function testAJobIsHandedOverWithItsKeysAndTheTimeForWhichItIs(): void
    {
        $handed = ['uniqueKey' => 'user 7', 'limitKey' => 'customer 7', 'dueAt' => 1_700_000_000_000];
        foreach ([$handed, ['uniqueKey' => null, 'limitKey' => null, 'dueAt' => null]] as $expected) {
            $job = self::performed(array_filter($expected));
            self::assertSame($expected, array_intersect_key(get_object_vars($job), $expected));
        }
    }

    public function testAPayloadThatIsNoJsonIsCalledSo(): void
    {
        $job = self::performed(['payload' => '{to: a@b.c}']);
        $this->expectException(\JsonException::class);
        $this->expectExceptionMessage('the payload is no JSON: Syntax error');
        $job->args();
    }

    /** @param array<string, mixed> $data */
    private static function performed(array $data): Job
    {
        $job = null;
        $performers = new Performers(static fn (array $report) => null);
        $performers->add('mail', static function (Job $handed) use (&$job): void {
            $job = $handed;
        });
        $performers->perform(['queue' => 'mail'] + $data);
        return $job;
    }
}
