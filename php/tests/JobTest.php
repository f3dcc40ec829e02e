<?php

declare(strict_types=1);

namespace Roster\Tests;

use PHPUnit\Framework\TestCase;
use Roster\Job;
use Roster\JobState;
use Roster\Worker\JobFailed;
use Roster\Worker\Performers;

final class Lazy
{
    public function perform(): \Generator
    {
        yield 1;
    }
}

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

    public function testLargeIntegersKeepTheirDigits(): void
    {
        $large = '{"id":18446744073709551615,"most":9223372036854775807}';
        $expected = ['id' => '18446744073709551615', 'most' => PHP_INT_MAX];
        self::assertSame($expected, self::performed(['payload' => $large])->args());
        $done = new Job(1, 'mail', '', '', JobState::Done, 5, 1, 0, 0, 1, 1, null, null, result: $large);
        self::assertSame($expected, $done->result());
    }

    public function testAPayloadThatIsNoJsonIsCalledSo(): void
    {
        $job = self::performed(['payload' => '{to: a@b.c}']);
        $this->expectException(\JsonException::class);
        $this->expectExceptionMessage('the payload is no JSON: Syntax error');
        $job->args();
    }

    public function testTheErrorOfAJobHasALineForWhatWasThrownBeforeAheadOfItsFrames(): void
    {
        $refused = new \UnderflowException("SQLSTATE[08006]\nconnection refused");
        $lines = self::failure(new \RuntimeException('could not save order', previous: $refused));
        $here = preg_quote(__FILE__, '~');
        self::assertSame('could not save order', $lines[0]);
        self::assertMatchesRegularExpression("~^in $here:\\d+$~", $lines[1]);
        $cause = 'after UnderflowException: SQLSTATE\[08006\] connection refused';
        self::assertMatchesRegularExpression("~^$cause in $here:\\d+$~", $lines[2]);
        self::assertStringStartsWith('by ', $lines[3]);
    }

    public function testHoweverManyWereThrownBeforeTheFirstAndTheLastAreToldWithinTheBounds(): void
    {
        $thrown = new \DomainException('where it began');
        for ($number = 20; $number > 0; $number--) {
            $thrown = new \LogicException("$number" . str_repeat('ü', 1_000), previous: $thrown);
        }
        $lines = self::failure(new \RuntimeException(str_repeat('m', 1_000), previous: $thrown));
        $causes = array_values(array_filter($lines, static fn (string $line) => str_starts_with($line, 'after ')));
        self::assertSame(['1', '19', '20'], array_map(
            static fn (string $line) => substr($line, strlen('after LogicException: '), strspn($line, '0123456789', 22)),
            array_slice($causes, 0, 3),
        ));
        self::assertStringStartsWith('after DomainException: where it began', $causes[3]);
        self::assertCount(4, $causes);
        self::assertLessThan(1_024, strlen(implode("\n", array_slice($lines, 0, 6))));
        self::assertSame(1, preg_match('//u', implode($lines)));
    }

    /** @return list<string> what is told of a job that throws this */
    private static function failure(\Throwable $thrown): array
    {
        $performers = new Performers(static fn (array $report) => null);
        $performers->add('mail', static fn () => throw $thrown);
        try {
            $performers->perform(['queue' => 'mail']);
        } catch (JobFailed $failed) {
            return explode("\n", $failed->getMessage());
        }
        self::fail('it has thrown');
    }

    /** @dataProvider generators */
    public function testACallableThatIsAGeneratorFailsSinceNothingOfItIsRun(?callable $perform, string $name, string $what): void
    {
        $performers = new Performers(static fn (array $report) => null);
        $performers->add('mail', $perform);
        $this->expectException(JobFailed::class);
        $this->expectExceptionMessage("$what has a `yield` in it");
        $performers->perform(['queue' => 'mail', 'name' => $name]);
    }

    public static function generators(): array
    {
        $generator = static function (): \Generator {
            yield 1;
        };
        return [[$generator, 'a', "what performs jobs of 'mail'"], [null, Lazy::class, Lazy::class . '::perform()']];
    }

    public function testTheDocumentedWorkerOfLaravelsJobsCreatesNoObjectOfAnotherClass(): void
    {
        $page = file_get_contents(__DIR__ . '/../../docs/queue.md');
        self::assertSame(1, preg_match('/function \(Roster\\\\Job \$job\) use \(\$app\).*?^}/ms', $page, $code));
        $app = new class () {
            public function call(array $method): void
            {
            }
        };
        $file = tempnam(sys_get_temp_dir(), 'roster-php-');
        file_put_contents($file, 'precious');
        $job = self::performed(['name' => \SplFileObject::class, 'payload' => json_encode([$file, 'w'])]);
        try {
            (eval("return $code[0];"))($job);
            self::fail('it was performed');
        } catch (\DomainException) {
            self::assertSame('precious', file_get_contents($file));
        } finally {
            unlink($file);
        }
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
